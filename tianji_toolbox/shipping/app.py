"""Start the demo of this folder: ``python app.py`` or ``streamlit run app.py``.

The platforms that host demos call the one or the other; ``.streamlit/config.toml`` holds the address
and the port, and the platform's own settings (``STREAMLIT_SERVER_PORT``, options) go before it.
That config is for a machine behind a platform's proxy: it answers to everybody. To try the demo, there is
``python app.py --local``, which is for this machine only, as ``tianji web`` is.
"""

import json
import os
import sys
from pathlib import Path

MODEL = "model"  # beside this file

if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent)

    from streamlit import runtime

    if runtime.exists():
        from tianji_toolbox.shipping import web_page

        web_page.main(json.dumps({"model_dir": MODEL}))
    elif "--local" in sys.argv[1:]:
        from tianji_toolbox import pages

        pages.serve("app.py", (), port=0)
    else:
        from streamlit.web import cli

        sys.argv = ["streamlit", "run", "app.py"]
        sys.exit(cli.main())
