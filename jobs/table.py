"""Make one of the paper's tables, as a Ray job:

ray job submit --working-dir . -- python jobs/table.py 2 --data SHARDS --run DIR
"""

from rgcluster.cli.jobs import run_job

if __name__ == "__main__":
    run_job(__file__)
