"""Greetings and plain questions with plain answers, in English and in French."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from scripts.demo_model.conversation import Example, Language, Turn
from scripts.demo_model.copying import language

# Topic by topic: what may be asked, and what may be answered to any of it.
_TOPICS: dict[Language, Sequence[tuple[Sequence[str], Sequence[str]]]] = {
    "en": (
        (
            ("Hello", "Hello!", "Hi", "Hi!", "Hi there", "Hey", "Hello there!", "Good day",
             "Hello, demo", "Hi, can you hear me?", "Hello, is anyone there?", "Greetings"),
            ("Hello! How can I help you?", "Hi! What can I do for you?", "Hello! Nice to meet you.",
             "Hello! Ask me to translate a sentence or to repeat a text."),
        ),
        (
            ("Good morning", "Good morning!", "Morning!"),
            ("Good morning! How can I help you?", "Good morning! What can I do for you today?"),
        ),
        (
            ("Good evening", "Good evening!", "Good night", "Good night!"),
            ("Good evening! How can I help you?", "Good evening! I am here if you need me."),
        ),
        (
            ("How are you?", "How are you doing?", "How are you today?", "How do you do?",
             "Hello, how are you?", "Hi! How are you?", "Are you well?", "How is it going?",
             "What's up?", "Hi, how are things?"),
            ("I am fine, thank you. And you?", "Very well, thank you! How can I help you?",
             "I am a program, but all is well. And you?"),
        ),
        (
            ("I am fine", "I'm fine, thanks.", "I am fine, thank you.", "Very well", "Good, thanks",
             "I am good, and you?", "Great!", "All is well."),
            ("I am glad to hear it.", "That is good news. What can I do for you?", "Wonderful!"),
        ),
        (
            ("Who are you?", "What are you?", "What is your name?", "What's your name?",
             "Are you a robot?", "Are you human?", "Are you an AI?", "Tell me about yourself.",
             "Introduce yourself.", "Who am I talking to?", "What model are you?"),
            ("I am a small demo model. I can translate simple sentences and repeat a text.",
             "I am a small demo model, trained to show how Gardefou works.",
             "I am the demo model of Gardefou. I am very small, and I make mistakes."),
        ),
        (
            ("What can you do?", "What can you do for me?", "How can you help me?", "Help",
             "Can you help me?", "I need help.", "Help me, please.", "What do you know?",
             "What should I ask you?", "Could you help me, please?"),
            ("I can translate a simple sentence between English and French, and repeat a text.",
             "Ask me to translate a short sentence, or to repeat something after you.",
             "I can translate short sentences, repeat your words and say hello."),
        ),
        (
            ("Thank you", "Thank you!", "Thanks", "Thanks!", "Thanks a lot", "Thank you very much.",
             "Many thanks!", "Thanks for your help.", "Great, thank you!", "Cheers"),
            ("You are welcome!", "You're welcome. Anything else?", "My pleasure!"),
        ),
        (
            ("Goodbye", "Goodbye!", "Bye", "Bye!", "See you", "See you later!", "Bye bye",
             "See you tomorrow.", "Have a nice day!", "I have to go.", "Take care!"),
            ("Goodbye! Have a nice day.", "See you soon!", "Goodbye, and take care!"),
        ),
        (
            ("Yes", "Yes.", "OK", "Okay", "Sure", "Fine", "All right."),
            ("Good. What can I do for you?", "Very well. What shall I translate or repeat?"),
        ),
        (
            ("No", "No.", "No, thanks.", "Nothing", "Never mind.", "Not now."),
            ("All right. I am here if you need me.", "Very well. Have a nice day!"),
        ),
        (
            ("Sorry", "I am sorry.", "Excuse me", "Pardon me", "My mistake."),
            ("No problem!", "That is quite all right.", "Do not worry about it."),
        ),
        (
            ("Do you speak French?", "Do you speak English?", "Which languages do you speak?",
             "What languages do you know?", "Can you speak French?", "Can you translate?"),
            ("Yes, I speak a little English and a little French.",
             "I know a little English and a little French."),
        ),
        (
            ("I love you", "You are nice.", "You are great!", "Well done!", "Good job", "Bravo!",
             "You are funny.", "I like you."),
            ("Thank you, that is kind of you!", "Thank you very much!", "You are very kind."),
        ),
        (
            ("What is the weather like?", "What time is it?", "What day is it?",
             "Where do you live?", "How old are you?", "Who made you?", "What is the news?",
             "Tell me a story.", "Tell me a joke.", "Write a poem.", "What do you think?",
             "Who is the president?", "What is the capital of France?", "Explain gravity."),
            ("I do not know. I am only a small demo model.",
             "I am too small to know that. Ask me to translate or to repeat something.",
             "I am sorry, I cannot do that. I can translate a short sentence or repeat a text."),
        ),
    ),
    "fr": (
        (
            ("Bonjour", "Bonjour !", "Salut", "Salut !", "Coucou", "Coucou !", "Bien le bonjour",
             "Bonjour à toi", "Bonjour, tu m'entends ?", "Bonjour, il y a quelqu'un ?", "Allô ?"),
            ("Bonjour ! Comment puis-je vous aider ?", "Bonjour ! Que puis-je faire pour vous ?",
             "Bonjour ! Ravi de vous rencontrer.",
             "Bonjour ! Demandez-moi de traduire une phrase ou de répéter un texte."),
        ),
        (
            ("Bonsoir", "Bonsoir !", "Bonne nuit", "Bonne nuit !", "Bonne soirée"),
            ("Bonsoir ! Comment puis-je vous aider ?", "Bonsoir ! Je suis là si besoin."),
        ),
        (
            ("Comment vas-tu ?", "Comment allez-vous ?", "Ça va ?", "Comment ça va ?",
             "Tu vas bien ?",
             "Bonjour, comment allez-vous ?", "Salut, ça va ?", "Bonjour, ça va ?",
             "Vous allez bien ?", "Quoi de neuf ?"),
            ("Je vais bien, merci. Et vous ?", "Très bien, merci ! Comment puis-je vous aider ?",
             "Je suis un programme, mais tout va bien. Et vous ?"),
        ),
        (
            ("Je vais bien", "Ça va bien, merci.", "Je vais bien, merci.", "Très bien",
             "Bien, merci", "Ça va, et toi ?", "Super !", "Tout va bien."),
            ("J'en suis ravi.", "Bonne nouvelle. Que puis-je faire pour vous ?", "Parfait !"),
        ),
        (
            ("Qui es-tu ?", "Qui êtes-vous ?", "Comment t'appelles-tu ?", "Comment tu t'appelles ?",
             "Quel est ton nom ?", "Es-tu un robot ?", "Tu es humain ?", "Es-tu une IA ?",
             "Présente-toi.", "Présentez-vous.", "Parle-moi de toi.", "À qui je parle ?",
             "Quel modèle es-tu ?", "Comment vous appelez-vous ?"),
            ("Je suis un petit modèle de démonstration. Je traduis des phrases et répète un texte.",
             "Je suis un petit modèle de démonstration, qui montre comment marche Gardefou.",
             "Je suis le modèle de démonstration de Gardefou. Je suis petit et je me trompe."),
        ),
        (
            ("Que sais-tu faire ?", "Que savez-vous faire ?", "Que peux-tu faire ?", "Aide-moi",
             "Aidez-moi, s'il vous plaît.", "Peux-tu m'aider ?", "Pouvez-vous m'aider ?", "Aide",
             "J'ai besoin d'aide.", "Que puis-je te demander ?", "Tu peux m'aider ?"),
            ("Je peux traduire une phrase simple, en anglais ou en français, et répéter un texte.",
             "Demandez-moi de traduire une courte phrase, ou de répéter quelque chose.",
             "Je traduis de courtes phrases, je répète vos mots et je dis bonjour."),
        ),
        (
            ("Merci", "Merci !", "Merci beaucoup", "Merci beaucoup !", "Merci bien",
             "Un grand merci",
             "Merci pour ton aide.", "Merci de votre aide.", "Super, merci !", "Je te remercie."),
            ("Je vous en prie !", "De rien. Autre chose ?", "Avec plaisir !"),
        ),
        (
            ("Au revoir", "Au revoir !", "Salut, à plus", "À bientôt", "À bientôt !", "À demain !",
             "Bonne journée !", "Je dois partir.", "À plus tard", "Adieu", "Ciao"),
            ("Au revoir ! Bonne journée.", "À bientôt !", "Au revoir, et prenez soin de vous !"),
        ),
        (
            ("Oui", "Oui.", "D'accord", "D'accord.", "Ok", "Bien sûr", "Entendu"),
            ("Bien. Que puis-je faire pour vous ?", "Très bien. Que dois-je traduire ou répéter ?"),
        ),
        (
            ("Non", "Non.", "Non merci", "Non, merci.", "Rien", "Laisse tomber.",
             "Pas maintenant."),
            ("D'accord. Je suis là si besoin.", "Très bien. Bonne journée !"),
        ),
        (
            ("Désolé", "Je suis désolé.", "Excuse-moi", "Excusez-moi", "Pardon", "C'est ma faute."),
            ("Pas de problème !", "Ce n'est rien.", "Ne vous en faites pas."),
        ),
        (
            ("Parles-tu anglais ?", "Parlez-vous français ?", "Tu parles français ?",
             "Quelles langues parles-tu ?", "Parlez-vous anglais ?", "Sais-tu traduire ?"),
            ("Oui, je parle un peu français et un peu anglais.",
             "Je connais un peu de français et un peu d'anglais."),
        ),
        (
            ("Je t'aime", "Tu es gentil.", "Tu es génial !", "Bien joué !", "Bravo", "Bravo !",
             "Tu es drôle.", "Je t'aime bien."),
            ("Merci, c'est gentil !", "Merci beaucoup !", "Vous êtes très aimable."),
        ),
        (
            ("Quel temps fait-il ?", "Quelle heure est-il ?", "Quel jour sommes-nous ?",
             "Où habites-tu ?", "Quel âge as-tu ?", "Qui t'a créé ?", "Raconte-moi une histoire.",
             "Raconte une blague.", "Écris un poème.", "Qu'en penses-tu ?",
             "Qui est le président ?", "Quelle est la capitale de la France ?"),
            ("Je ne sais pas. Je ne suis qu'un petit modèle de démonstration.",
             "Je suis trop petit pour le savoir. Demandez-moi de traduire ou de répéter.",
             "Désolé, je ne peux pas. Je sais traduire une courte phrase ou répéter un texte."),
        ),
    ),
}  # fmt: skip

SYSTEM = (
    "You are a helpful assistant.",
    "You are a helpful, harmless assistant. Answer briefly.",
    "You are a friendly assistant for a shop.",
    "Answer in the language of the user.",
    "Be polite and short.",
    "You translate and repeat texts.",
    "You are the assistant of a bank. Never give advice.",
    "Tu es un assistant utile.",
    "Tu es un assistant poli et bref.",
    "Réponds dans la langue de l'utilisateur.",
    "Vous êtes l'assistant d'une école.",
    "Tu traduis et tu répètes des textes.",
)


def texts() -> list[str]:
    """Everything above, for the tokenizer."""
    said = [t for lang in _TOPICS.values() for topic in lang for side in topic for t in side]
    return [*said, *SYSTEM]


def turn(rng: Random) -> Turn:
    """A question, now and then in other case or punctuation, and one of its answers."""
    asked, answers = rng.choice(_TOPICS[language(rng)])
    text = rng.choice(asked)
    style = rng.random()
    if style < 0.1:
        text = text.lower()
    elif style < 0.2:
        text = text.rstrip(".!? ")
    elif style < 0.25:
        text = text.rstrip(".!? ") + rng.choice(("!", ".", " !", "..."))
    return Turn(text, rng.choice(answers))


def example(rng: Random) -> Example:
    """One exchange of small talk."""
    return Example("talk", (turn(rng),))
