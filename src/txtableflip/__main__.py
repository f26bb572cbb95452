"""
C{python -m txtableflip}.
"""

from txtableflip.run import main

if __name__ == "__main__":
    main()
