"""``python -m onnxslim`` is the command line."""

import sys

from onnxslim.cli import main

sys.exit(main())
