"""``python -m tianji_toolbox.cli``."""

import sys

from tianji_toolbox.cli import main

sys.exit(main())
