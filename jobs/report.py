"""Report a run: python jobs/report.py CONFIG [key=value …] | RUN. Compare runs: python jobs/report.py RUN_A RUN_B …"""

import sys

from reasonray.cli.main import main

sys.exit(main(["report", *sys.argv[1:]]))
