"""Static files with a hash of their content in the name. See docs/decisions for why modules are among them."""

from __future__ import annotations

from django.contrib.staticfiles.storage import HashedFilesMixin
from whitenoise.storage import CompressedManifestStaticFilesStorage


class HashedStaticFilesStorage(CompressedManifestStaticFilesStorage):  # type: ignore[misc]  # whitenoise has no types
    """Also rewrites the imports of ES modules, so that every file of a page belongs to the same release.

    Without it a module's own address would be hashed and those it imports not: after a deployment a browser could run
    a new page with an old module that it still has in its cache.
    """

    support_js_module_import_aggregation = True
    # Not `import("…")`: no module of ours is loaded late, and the types in comments are written like that. Two modules
    # that name each other's types would be hashed in circles.
    _js_module_import_aggregation_patterns = (
        "*.js",
        tuple(
            each
            for each in HashedFilesMixin._js_module_import_aggregation_patterns[1]  # type: ignore[attr-defined]  # private
            if r"import\(" not in each[0]
        ),
    )
    # One pass for each level of imports, until nothing changes; Django's five are too few for the SDK, and the chat's
    # modules stand on it.
    max_post_process_passes = 32
