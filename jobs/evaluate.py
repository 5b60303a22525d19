"""Measure models on the test problems, and report: python jobs/evaluate.py CONFIG [key=value …]"""

import sys

from reasonray.cli.main import main

sys.exit(main(["evaluate", *sys.argv[1:]]))
