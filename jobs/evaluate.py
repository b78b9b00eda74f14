"""Evaluate a run and write its report, as a Ray job:

ray job submit --working-dir . -- python jobs/evaluate.py --run DIR
"""

import sys

from rgcluster.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["evaluate"]
    main()
