# SPDX-License-Identifier: GPL-2.0-only
"""
History: each known bug as a patch that takes its fix out of today's code again.

A patch is a header and a unified diff of ``uvfio/``::

    Subject: one line, as a commit would say it
    Linux: the commit that fixed it, and where it went in
    Scenario: the scenario that shows it
    Finds: the kind of finding to expect
    Story: two lines on what went wrong and who noticed
    Kind: fix, if today's Linux still has the bug: the patch takes it out. Else left away

A line that starts with a space goes on with the field before it. A hunk begins with
``@@`` and whatever helps a reader; where it goes is found by its text, which must fit
in one place.
"""
