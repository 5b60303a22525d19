"""Sample solutions from the teachers and judge them: python jobs/sample.py CONFIG [key=value …]"""

import sys

from reasonray.cli.main import main

sys.exit(main(["sample", *sys.argv[1:]]))
