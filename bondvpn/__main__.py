"""`python -m bondvpn`"""

from bondvpn.cli import main

main()
