"""What all fields keep to, from the file to the store: names that need no decoder of GRIB."""

from __future__ import annotations

__all__ = ["MEANING", "RAW_FILE"]

#: `t2m_raw_file` says which raw file each field of `t2m` is from.
RAW_FILE = "_raw_file"
#: Attributes in which all fields of a variable agree: units, analysis or forecast.
MEANING = ("units", "GRIB_dataType")
