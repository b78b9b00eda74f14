"""Embed the retrieval set into the run's store, as a Ray job:

ray job submit --working-dir . -- python jobs/store.py --data SHARDS --run DIR --preset demo
"""

import sys

from rgcluster.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["store", "build"]
    main()
