"""How close inference comes to what the machine's matrix products allow, in fp32 and bf16.

    python benchmarks/inference.py [--batch 1 32] [--preset released] [--device cuda --compile]

Operations are counted on the model as it runs, the rate of a large matrix product is measured in the same run, and their quotient is the ideal time.
"""
import argparse

from machine import add_arguments, measure


def prepare(model, batch):
    model.eval().requires_grad_(False)
    return lambda: model(*batch)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    measure(parser.parse_args(), prepare, "inference")


if __name__ == "__main__": main()
