"""`python -m muki` (and `accelerate launch -m muki train RUN`)."""

from muki.cli import main

if __name__ == "__main__":
    main()
