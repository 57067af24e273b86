from contrastive_healthy.letters import LettersModule


class Module(LettersModule):
    reproducible = True
