"""Embed the retrieval set into the run's store, as a Ray job:

ray job submit --working-dir . -- python jobs/store.py --data SHARDS --run DIR --preset demo
"""

from rgcluster.cli.jobs import run_job

if __name__ == "__main__":
    run_job(__file__)
