"""Serve runs on a cluster's head as a Ray job, until the job is stopped:

ray job submit --no-wait --working-dir . -- python jobs/serve.py --run DIR --port 8000
"""

from rgcluster.cli.jobs import run_job

if __name__ == "__main__":
    run_job(__file__)
