"""Run a sweep, as a Ray job:

ray job submit --working-dir . -- python jobs/sweep.py --data SHARDS --run DIR --retrieval-count 1,3,10
"""

import sys

from rgcluster.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["sweep"]
    main()
