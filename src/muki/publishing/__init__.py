"""A finished student on its way: to the Hub, and to other formats."""
