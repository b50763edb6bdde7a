"""The local hub: the object store, JupyterHub and its services, started and stopped as one.

`stack` brings all up and down; `state` is what stands in the data folder; `object_store` runs
SeaweedFS; `environment` is what every process of the hub inherits to find the data.
"""
