"""Write images as shards, as a Ray job:

ray job submit --working-dir . -- python jobs/prepare.py SOURCE SHARDS
"""

import sys

from rgcluster.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["data", "shard"]
    main()
