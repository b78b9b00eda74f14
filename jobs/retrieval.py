"""Train the retrieval stage, with what it depends on, as a Ray job:

ray job submit --working-dir . -- python jobs/retrieval.py --data SHARDS --run DIR --preset demo
"""

import sys

from rgcluster.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["train", "retrieval"]
    main()
