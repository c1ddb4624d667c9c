"""The vSphere driver against govmomi's simulator."""
