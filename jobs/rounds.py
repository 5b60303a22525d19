"""Run the rounds of a configuration with [rounds]: python jobs/rounds.py CONFIG [key=value …]"""

import sys

from reasonray.cli.main import main

sys.exit(main(["rounds", *sys.argv[1:]]))
