#!/bin/sh
# What the kata-manager DaemonSet of an existing GPU operator calls; some mount a script of their own over it.
exec k8s-kata-manager "$@"
