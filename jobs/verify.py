"""Judge the stored rollouts again, and report: python jobs/verify.py CONFIG [key=value …]"""

import sys

from reasonray.cli.main import main

sys.exit(main(["verify", *sys.argv[1:]]))
