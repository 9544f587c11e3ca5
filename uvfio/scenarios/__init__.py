# SPDX-License-Identifier: GPL-2.0-only
"""Litmus tests: a question, two or three tasks, the allowed outcomes."""
