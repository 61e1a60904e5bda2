"""Inverse problems: any linear operator, any prior."""

__all__ = ["AdmmTv", "AdmmTvSettings", "Dds3dSettings", "dds3d"]

from medsci.inverse.admm_tv import AdmmTv, AdmmTvSettings
from medsci.inverse.dds3d import Dds3dSettings, dds3d
