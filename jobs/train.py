"""Fine-tune the student on the data set: python jobs/train.py CONFIG [key=value …]"""

import sys

from reasonray.cli.main import main

sys.exit(main(["train", *sys.argv[1:]]))
