"""Filter and select rollouts, and write the data set: python jobs/curate.py CONFIG [key=value …]"""

import sys

from reasonray.cli.main import main

sys.exit(main(["curate", *sys.argv[1:]]))
