"""Teachers: loading, dropout that is on, scoring, and the store of what they said."""
