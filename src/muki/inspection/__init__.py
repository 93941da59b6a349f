"""Before time is spent: what a run would be made of, what is wrong with it, and what it would cost."""
