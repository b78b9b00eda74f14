"""Serve runs on a cluster's head as a Ray job, until the job is stopped:

ray job submit --no-wait --working-dir . -- python jobs/serve.py --run DIR --port 8000
"""

import sys

from rgcluster.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["serve"]
    main()
