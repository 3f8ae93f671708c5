# SPDX-License-Identifier: MIT OR Apache-2.0
# A guest whose balloon goes down and up all the time.
guest g 128 128 "memory=12:500 churn=32768:0:1024:10000"
says g 'GUEST churns' 60
migrate g ''
arrived g 512
swings g
