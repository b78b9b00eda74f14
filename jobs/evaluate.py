"""Evaluate a run and write its report, as a Ray job:

ray job submit --working-dir . -- python jobs/evaluate.py --run DIR
"""

from rgcluster.cli.jobs import run_job

if __name__ == "__main__":
    run_job(__file__)
