"""`python -m hfpipe`, as `accelerate launch -m` starts it."""

import sys

from hfpipe.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
