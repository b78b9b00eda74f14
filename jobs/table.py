"""Make one of the paper's tables, as a Ray job:

ray job submit --working-dir . -- python jobs/table.py 2 --data SHARDS --run DIR
"""

import sys

from rgcluster.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["table"]
    main()
