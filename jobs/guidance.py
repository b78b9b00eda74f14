"""Train the guidance stage, with what it depends on, as a Ray job:

ray job submit --working-dir . -- python jobs/guidance.py --data SHARDS --run DIR --preset demo
"""

from rgcluster.cli.jobs import run_job

if __name__ == "__main__":
    run_job(__file__)
