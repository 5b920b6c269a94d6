"""Where version 0.1 had them; pickles name this place."""

from fastbn.model.layout import Layout as Layout
