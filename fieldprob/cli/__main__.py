"""`python -m fieldprob.cli` is `fieldprob`."""

import sys

from fieldprob.cli import main

sys.exit(main())
