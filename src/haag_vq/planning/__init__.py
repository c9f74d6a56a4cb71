"""Know before you run: memory, disk, time and the Slurm request of a job, from headers alone."""

from haag_vq.planning.calibration import calibrate
from haag_vq.planning.fetch_job import FetchJob
from haag_vq.planning.jobs import ExportJob, LoadJob, StreamJob
from haag_vq.planning.plans import Plan, plan
from haag_vq.planning.quantize_job import QuantizeJob
from haag_vq.planning.rates import Rates, known_rates, save_rates
from haag_vq.planning.search_job import SearchJob, query_values
from haag_vq.planning.shapes import ShapeSource
from haag_vq.planning.sites import Site, local_site, this_process

__all__ = [
    "ExportJob",
    "FetchJob",
    "LoadJob",
    "Plan",
    "QuantizeJob",
    "Rates",
    "SearchJob",
    "ShapeSource",
    "Site",
    "StreamJob",
    "calibrate",
    "known_rates",
    "local_site",
    "plan",
    "query_values",
    "save_rates",
    "this_process",
]
