"""An export of a checkpoint that has no tokenizer."""

from unittest import mock

from bertjax.pretrained import export as exporting


def export_without_tokenizer(source, out):
    with mock.patch.object(exporting, "write_tokenizer"):
        exporting.export(source, out)
