"""Brings every GPU and NVSwitch of the node to the confidential-computing mode that is asked for.

`gpu`      one device and its firmware: opened safely, registers, packets, knobs, boot
`cluster`  the node in the API server: its labels, operands and pods; touches no device
beside them: what is observed (`observe`), what is to be done (`plan`) and doing it (`apply`, `setter`), by hand
           (`by_hand`) or as the label asks (`reconcile`, whose one change of mode is `mode_change`)
"""
