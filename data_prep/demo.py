"""Draw the demo data set: python data_prep/demo.py OUT."""

from zorse_prep.demo import main

if __name__ == "__main__":
    main()
