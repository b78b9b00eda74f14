"""Run a sweep, as a Ray job:

ray job submit --working-dir . -- python jobs/sweep.py --data SHARDS --run DIR --retrieval-count 1,3,10
"""

from rgcluster.cli.jobs import run_job

if __name__ == "__main__":
    run_job(__file__)
