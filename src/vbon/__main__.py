"""`python -m vbon`, which is also what `torchrun -m -- vbon train …` runs."""

import sys

from vbon.cli import main

sys.exit(main())
