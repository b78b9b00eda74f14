"""Draw faces and do everything, as a Ray job:

ray job submit --working-dir . -- python jobs/pipeline.py --run DIR --preset demo
"""

import sys

from rgcluster.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["demo"]
    main()
