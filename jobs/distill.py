"""Run all stages in order: python jobs/distill.py CONFIG [key=value …]"""

import sys

from reasonray.cli.main import main

sys.exit(main(["distill", *sys.argv[1:]]))
