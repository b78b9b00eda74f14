"""Write images as shards, as a Ray job:

ray job submit --working-dir . -- python jobs/prepare.py SOURCE SHARDS
"""

from rgcluster.cli.jobs import run_job

if __name__ == "__main__":
    run_job(__file__)
