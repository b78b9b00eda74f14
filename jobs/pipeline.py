"""Draw faces and do everything, as a Ray job:

ray job submit --working-dir . -- python jobs/pipeline.py --run DIR --preset demo
"""

from rgcluster.cli.jobs import run_job

if __name__ == "__main__":
    run_job(__file__)
