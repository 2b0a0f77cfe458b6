"""``python -m tianji_helpers.cli``."""

import sys

from tianji_helpers.cli import main

sys.exit(main())
