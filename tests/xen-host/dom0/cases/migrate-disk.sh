# SPDX-License-Identifier: MIT OR Apache-2.0
# The same as migrate-writer with VERIFY. Not among the cases that are run by default.
disked
xl vcpu-set disked 1
migrate disked '' --debug
arrived disked
grep -q 'Verify mode enabled' /root/receive.log
balloons disked 176
