"""`python -m ctxbench.train`, for torchrun and accelerate launch."""

from ctxbench.train.cli import main

if __name__ == "__main__":
    main()
